"""`pytest --slow` tries every random abuse many more times."""
import pytest

pytest.register_assert_rewrite('questions')

def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='the long versions of the random tests')

@pytest.fixture(scope='session')
def often(request):
    "`often(n)`: how many times to try, where `n` are enough for everyday."
    return lambda n: n * (20 if request.config.getoption('--slow') else 1)
