"""The clock: what is timed, alone, interleaved or in the model, and until when."""
