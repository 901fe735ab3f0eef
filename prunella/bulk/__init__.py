"""Bulk scoring: classify the rows of files, on the cores of one machine, on Ray or on Spark.

The reader cuts the input into chunks (`input_files`, `chunk_reader`). A chunk worker makes the content of one part
file out of a chunk (`chunk_scorer`). The run (`run`) writes the parts and notes them (`output_folder`). The engines
differ in where the chunk workers run: `local_worker`, `ray_worker`, `spark_worker`.
"""
