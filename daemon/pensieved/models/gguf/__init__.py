"""GGUF files as MLX folders: tensors dequantized and renamed, configuration and tokenizer rebuilt from metadata.

Used by the preparer only. `mx.load` reads three of GGUF's thirty tensor types and no tokenizer; the `gguf`
package reads and dequantizes all of them in numpy.
"""
