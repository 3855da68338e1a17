"""Published laws for learning rate, batch, decay and loss, and fits of them."""
