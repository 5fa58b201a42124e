// How the search of the site ranks what Sphinx finds. A page's title and the keywords
// that it declares (docs/search.py) count most; then names, as they are written in code;
// then the text of pages, guides first. Sphinx calls `score` for each result.

const Ranking = {
  // What the same words in the text are worth, by the folder of the page.
  folders: {
    guides: 6,
    tutorials: 5,
    neighbours: 4,
    explanations: 4,
    reference: 2,
    project: 0,
  },

  stem(text) {
    const stemmer = new Stemmer();
    return splitQuery(text.toLowerCase()).map((word) => stemmer.stemWord(word));
  },

  // Without words such as "the", unless there is nothing else.
  telling(words) {
    const rest = words.filter((word) => !stopwords.has(word));
    return rest.length ? rest : words;
  },

  // What each page says that it is about: its title and its keywords, in stems.
  read(index) {
    const phrases = index.titles.map((title) => [Ranking.stem(title)]);
    for (const [entry, places] of Object.entries(index.indexentries))
      for (const [page, , declared] of places)
        if (declared) phrases[page].push(Ranking.stem(entry));
    Ranking.index = index;
    Ranking.pages = new Map(index.docnames.map((name, i) => [name, phrases[i]]));
  },

  // From 0 to 1: how many words a phrase and the question have in common.
  fit(words, phrase) {
    if (words.join("") === phrase.join("")) return 1;
    const all = new Set([...words, ...phrase]);
    const common = words.filter((word) => phrase.includes(word));
    return common.length / all.size;
  },

  // From 0 to 1: how much of the question a page is about. The beginning of a word, such
  // as "postgres", counts less than the word.
  coverage(words, phrases) {
    const known = phrases.flat();
    const telling = Ranking.telling(words);
    const found = telling.map((word) => {
      if (known.includes(word)) return 1;
      return word.length > 2 && known.some((each) => each.startsWith(word)) ? 0.7 : 0;
    });
    return found.reduce((sum, each) => sum + each, 0) / telling.length;
  },

  folder(page) {
    return Ranking.folders[page.split("/")[0]] ?? 3;
  },

  ofPage(query, page, found) {
    const words = Ranking.stem(query);
    const phrases = Ranking.pages.get(page);
    const best = Math.max(...phrases.map((phrase) => Ranking.fit(words, phrase)));
    return Math.min(found, 15) + 50 * best + 40 * Ranking.coverage(words, phrases);
  },

  ofSection(query, heading) {
    return 70 * Ranking.fit(Ranking.stem(query), Ranking.stem(heading));
  },

  // A name that is typed as in code is meant. What is typed in words can mean a part of
  // a name: "max bytes" means SESSION_MAX_BYTES.
  ofName(query, name) {
    const last = name.split(".").at(-1);
    if ([name, last].includes(query.replace(/\(\)$/, "")) && /[_.A-Z]/.test(query))
      return 150;
    if (last.toLowerCase() === query.toLowerCase()) return 75;
    const parts = last.replace(/^SESSION_/, "").replace(/([a-z])([A-Z])/g, "$1_$2");
    return 8 + 60 * Ranking.fit(Ranking.stem(query), Ranking.stem(parts.replaceAll("_", " ")));
  },

  of(query, [page, title, anchor, , found, , kind]) {
    const folder = Ranking.folder(page);
    if (kind === "object") return folder + Ranking.ofName(query, title);
    if (anchor) return folder + Ranking.ofSection(query, title.split(" > ").at(-1));
    return folder + Ranking.ofPage(query, page, found);
  },
};

var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,

  score(result) {
    if (Ranking.index !== Search._index) Ranking.read(Search._index);
    const query = new URLSearchParams(window.location.search).get("q").trim();
    const score = Ranking.of(query, result);
    return result[0].startsWith("reference/internals/") ? score / 5 : score;
  },
};

// Sphinx finds only pages that have every word. Where few have, those that have some of
// them are better than nothing.
const everyWord = Search.performTermsSearch;
Search.performTermsSearch = (words, excluded) => {
  const results = everyWord(words, excluded);
  if (results.length > 2 || words.size < 2) return results;
  const each = [...words].flatMap((word) => everyWord(new Set([word]), excluded));
  return [...results, ...each];
};
