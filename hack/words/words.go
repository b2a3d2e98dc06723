// The words and spellings that comments and pages do not use, and what to write instead.

package main

import "regexp"

// A rule is a pattern that a text must not match, and what to write instead.
type rule struct {
	pattern *regexp.Regexp
	advice  string
}

func word(pattern, advice string) rule {
	return rule{regexp.MustCompile(`(?i)\b(?:` + pattern + `)\b`), advice}
}

// everywhere applies to comments, pages and chart texts: words that a reader would have to learn,
// and British spellings.
var everywhere = []rule{ //nolint:gochecknoglobals // the table
	word(`anew`, `say "again"`),
	word(`whom`, `name who it is`),
	word(`who(m|so)?ever|those who`, `name who it is: the caller, the client, a user`),
	word(`some(body|one)( else)?('s)?`, `name who it is: another writer, an operator`),
	word(`nobody('s)?`, `name who it is: no pod, no writer`),
	word(`mend(s|ed|ing)?`, `say "fix" or "repair"`),
	word(`tells?|told`, `say "report", "notify", "distinguish" or "return"`),
	word(`of (ours|theirs|its own making)`, `name the owner`),
	word(`takes? that`, `say "handle" or "record"`),
	word(`a word (to|for|of|from)`, `say "message" or "Event"`),
	word(`news of|the news`, `say "change", "event" or "update"`),
	word(`c(a|o)mes? to nothing`, `say "fail" or "have no effect"`),
	word(`by and by|thereof|whence|hence|thereby|therein|henceforth`, `use a plain word`),
	word(`all the same`, `say "anyway" or "still"`),

	word(`(behavi|col|endeav|fav|flav|harb|hon|hum|lab|neighb|rum|vig)our\w*`, `American spelling: -or`),
	word(`(author|custom|final|general|initial|local|maxim|memor|minim|normal|optim|organ|prior|priorit|real|recogn|serial|special|`+
		`standard|summar|synchron|util|visual)is(e|es|ed|ing|ation|ations|er|ers)`, `American spelling: -ize`),
	word(`(cancel|label|model|signal|travel|tunnel)l(ed|ing|er|ers)`, `American spelling: a single l`),
	word(`(cent|fib|lit|met)res?`, `American spelling: -er`),
	word(`defences?|offences?|licences?|practis(e|es|ed|ing)`, `American spelling: defense, offense, license, practice`),
	word(`artefacts?|catalogues?|dialogues?|grey|judgements?|whilst|amongst|afterwards|towards`,
		`American spelling: artifact, catalog, dialog, gray, judgment, while, among, afterward, toward`),
}

// openers applies to the first line of a doc comment.
var openers = rule{ //nolint:gochecknoglobals // part of the table
	regexp.MustCompile(`^\w+ (tells?|takes|says?|hears?|notes that)\b`),
	`open with what it does: "X returns", "X reports whether", "X records", "X is"`,
}

// The limits of lines, sentences and paragraphs.
const (
	commentColumns = 100 // a tab counts as one
	sentenceWords  = 35  // aim for 25
	paragraphWords = 90
)
