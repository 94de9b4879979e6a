//! DALL-E's discrete VAE on libtorch: load, encode, decode, train.
