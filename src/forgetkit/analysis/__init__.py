"""Questions put to a trained model: the evidence they are shown, the asking, the answers on disk."""
