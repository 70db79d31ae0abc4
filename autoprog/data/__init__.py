"""The data path: from files to the batches of a run. Its modules in the order in which an image meets them:

* ``formats``, ``folders``: which files are images, and which folder names the class of each;
* ``decode``: from the bytes of a file to RGB pixels;
* ``image_sources``, ``stream``: images that are read in any order, and those that come one after another;
* ``dataset``, ``opening``: both parts of a data set, opened and checked;
* ``cache_folder``, ``cache``: images decoded once, in a file that all processes map;
* ``transforms``, ``batch_crops``, ``batch_augment``: timm's augmentation, of an image or of a whole batch;
* ``batches``, ``workers``, ``loader``: batches of tensors, made by worker processes, exact at any resume;
* ``run_data``: all that a trainer asks for, :class:`~autoprog.data.run_data.RunData`.
"""
