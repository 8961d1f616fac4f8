"""The preparer process: the verified chain from a source to a folder that the engine can load.

Started by `pensieved.models.preparation` as ``python -m pensieved.models.preparer``. Only what runs here may
import mlx, mlx_lm, transformers and huggingface_hub; nothing outside imports this package.
"""
