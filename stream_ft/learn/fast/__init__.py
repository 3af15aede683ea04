"""The fast tier: small heads over the served embedding that learn from every event within a millisecond.

Each learner is one file with one class that fulfils :class:`stream_ft.learn.fast.expert.Expert` and a function
``build(*, dim, seed)``; naming the file in the configuration adds it. :class:`stream_ft.learn.fast.tier.FastTier` mixes
them. Nothing here reads a clock or draws at random after it was built, so the same events give the same state.
"""
