"""Quantization: activation ranges, int8 recipes, and sublayers that stay in fp32."""
