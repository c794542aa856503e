"""A name -> the model with its attention, checked; a run's folder -> the model that was trained."""
