"""Plain networks: U-Nets, encoders, decoders, transformers and text encoders. No losses, no diffusion maths."""
