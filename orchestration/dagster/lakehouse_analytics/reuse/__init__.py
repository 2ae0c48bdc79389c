"""Which tables need not be built, because neither their code nor their inputs have changed: `reuse: true`.

`code` has the fingerprint of a table's code, `jinja` what its templates read, `statements` what its SQL reads, `state`
what is recorded of a build, and `decisions` compares them with what is there now.
"""
