"""Downloaded collections become manifests: one function a collection, over one small core."""
