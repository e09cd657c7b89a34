"""Receptive fields as pictures, by matplotlib (the extra ``plots``); no pyplot, so no global state.

`growth` draws the field over depth, `window` one window over an image, `stack` how windows add up.
"""
