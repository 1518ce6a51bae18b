"""Bars where they are watched: in a notebook and on a terminal; in a log file two lines do."""
import io

import IPython.display
import pytest

from sotavision.core import display
from sotavision.core.display import progress, quiet

class Terminal(io.StringIO):
    def isatty(self): return True

@pytest.fixture
def shown(monkeypatch):
    "What a notebook is given to show, in order."
    said = []
    class Handle:
        def update(self, o): said.append(o.data)
    def show(o, display_id):
        said.append(o.data)
        return Handle()
    monkeypatch.setattr(IPython.display, 'display', show)
    monkeypatch.setattr(display, 'in_notebook', lambda: True)
    return said

def test_log_file(capsys):
    assert list(progress('abc', desc='reading')) == [*'abc']
    assert capsys.readouterr().err == 'reading: 0/3\nreading: 3/3\n'
    assert list(progress(iter('ab'), desc='reading')) == [*'ab']
    assert capsys.readouterr().err == 'reading: 0/?\nreading: 2/?\n'

def test_terminal(monkeypatch):
    heard = Terminal()
    monkeypatch.setattr('sys.stderr', heard)
    list(progress(range(4), desc='reading', every=0))
    said = heard.getvalue()
    assert '100%' in said and '3/4' in said and said.count('\n') == 1

def test_notebook(shown, capsys):
    list(progress(range(2), desc='<b>', every=0))
    assert "value='0' max='2'" in shown[0]
    assert '&lt;b&gt;: 0/2' in shown[0] and '<b>' not in shown[0]
    assert shown[-1] == '' and capsys.readouterr() == ('', '')

def test_an_error_inside_ends_the_bar(shown):
    def broken():
        yield 1
        raise OSError('gone')
    with pytest.raises(OSError, match='gone'): list(progress(broken(), total=2))
    assert shown[-1] == ''

@pytest.mark.parametrize('how', (dict(show=False), {}))
def test_nothing_is_shown(capsys, shown, how):
    if how: list(progress([1], **how))
    else:
        with quiet(): list(progress([1]))
    assert not shown and capsys.readouterr() == ('', '') and not progress.hushed

def test_unknown_words_are_refused():
    with pytest.raises(TypeError, match='colour'): progress([1], colour='red')
