"""Pictures of samples for people: grids, and sheets that show a space of latents."""
