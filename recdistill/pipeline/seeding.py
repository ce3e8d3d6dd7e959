"""Seeds: the state of Keras and of all random generators in a new process."""

from __future__ import annotations

import keras


def begin_like_a_new_process(seed: int) -> None:
    """Resets Keras's numbering of layer names, and all random generators.

    Names and numbers then do not depend on the steps that the process has run before,
    so that a step writes the same bytes in a run that was interrupted.
    """
    policy = keras.config.dtype_policy()
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
