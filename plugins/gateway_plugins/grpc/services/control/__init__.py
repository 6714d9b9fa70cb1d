"""What the gateway's own service offers beside generations: `ListModels` and `Abort`."""
