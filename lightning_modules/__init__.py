"""One file per family: losses, optimisers, sampling. No layers and no diffusion mathematics live here."""
