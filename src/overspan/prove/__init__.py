"""`prove`: a twin of the model runs in each layout and must give the reference's tokens exactly."""
