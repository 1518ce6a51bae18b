/* What a search result quotes: the page's own text, without menus, buttons and links to neighbors. */
const NOT_TEXT = '.headerlink, script, style, nav, button, p.source, .prev-next-footer'

function pageText(page, anchor) {
  const article = new DOMParser().parseFromString(page, 'text/html').querySelector('.bd-article')
  if (!article) return ''
  article.querySelectorAll(NOT_TEXT).forEach(o => o.remove())
  const place = anchor ? article.querySelector(anchor) : null
  return (place || article).textContent.replace(/\s+/g, ' ')
}

document.addEventListener('DOMContentLoaded', () => {
  if (typeof Search !== 'undefined') Search.htmlToText = pageText
})
