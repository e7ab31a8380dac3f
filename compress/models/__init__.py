"""Any model file to a model: scanned for code first, Keras 2 and SavedModels included."""
