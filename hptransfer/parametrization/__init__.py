"""Plans: how each parameter's init, learning rate, weight decay and eps change with scale, and applying them."""
