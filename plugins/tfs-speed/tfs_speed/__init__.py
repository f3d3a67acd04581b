"""Speed-ups with a measured effect, each a component: see README.md."""
