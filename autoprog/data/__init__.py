"""Reading images: sources, the held-out slice, transforms and loaders."""
