"""What is computed otherwise on a CPU, where MLX's own way is slow: nothing here changes what a model says."""
