"""How results are shown: their forms, and the step that follows."""
