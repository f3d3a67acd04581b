"""An example of a plugin: a model and an optimizer whose only aim is the lowest loss in the least time on a CPU."""
