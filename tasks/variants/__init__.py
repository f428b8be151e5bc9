"""Turn a checkpoint into quantised ONNX variants with Olive and prove that each one decodes."""
