"""Step 2, admission: is a checkpoint folder complete, safe, sound and free of contradictions?"""
