"""The two-layer ReLU classifier, trained with funcgrad and compared with other systems on the way.

    model, training                    the classifier and its training, as pure functions
    datasets, csv_table, bad_input     what it is trained on, and what cannot be used
    flax_side, tape_side, crosschecks  the same in Flax under `jax.grad` and on a plain-Python tape; do they agree?
    runner, outputs                    a run, and the folder that it leaves behind
    views, plots, stages_page          what the pictures look at; the pictures; the page
    command                            the command line
"""
