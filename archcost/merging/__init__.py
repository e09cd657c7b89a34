"""Several linear layers merged into a single convolution, exactly: its shapes and its weights."""
