"""A patient's sessions: laid over each other, and what later ones show of earlier lesions."""
