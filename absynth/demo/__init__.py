"""The page of ``absynth demo``: the library behind a sheet of paper.

:mod:`absynth.demo.examiner` computes what the page answers, in the words and pictures of
:mod:`absynth.demo.fragments`, for models that :mod:`absynth.demo.loading` loads. None of them needs gradio.
:mod:`absynth.demo.page` draws the page, and it alone imports gradio; :mod:`absynth.demo.server` serves it.
"""
