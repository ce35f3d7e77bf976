"""Other people's code with funcgrad in the place of JAX's derivatives: Flax and equinox layers, optax's own tests."""
