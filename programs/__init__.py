"""The shortest program of each family: one file, one loop, over the nets and formulas that the whole repository uses.

python -m programs.vae, and so on: autoencoder, gan, diffusion, clip, text_to_image. Each trains for
minutes on two cores, text_to_image for twenty, and writes a picture.
"""
