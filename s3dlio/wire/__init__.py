"""A small HTTP/1.1 client that puts bodies straight into memory the caller owns.

Floor 2. The modules, from the bottom: ``head`` (pure parsing), ``connection`` (one socket), ``client``
(the idle connections of one origin), ``transport`` (tries, resume, and reading ranges into memory).
Nobody here knows S3, XML or credentials: requests come in signed.
"""
