"""accelerate: each convolution on its fastest path, and what stands around it in one with it."""
