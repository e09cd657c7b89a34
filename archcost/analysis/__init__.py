"""Analysis, Comparison, CrossCheck, the zoo: what a model costs, and where its layers look."""
