"""Step 1, environment: can this machine build and serve, and does this checkpoint fit on it?"""
