"""Diffusion as pure tensor mathematics: schedules, the forward process, prediction types, loss weightings, denoisers,
guidance, thresholding and samplers. Everything speaks through one function, `denoise(x_t, t) -> x_0_hat`, holds for any
scales (alpha, sigma) and any tensor shape, and imports torch only. Equations and sources: docs/diffusion.md."""
