"""Networks with weights that others trained and published, as values of this project. Not for training from them."""
