"""Speed-ups with a measured number, each a component: see README.md."""
