"""The plugin `weight_sync`: changes the weights of all workers while calls run."""
