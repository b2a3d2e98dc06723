// Finding them: in the comments of a Go file, and in the lines of every other text.

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strings"
	"unicode/utf8"
)

// A finding is one place that a rule objects to.
type finding struct {
	line    int
	message string
}

// match returns the findings of the rules in one line of text.
func match(text string, line int, rules ...rule) (found []finding) {
	for _, r := range rules {
		if hit := r.pattern.FindString(text); hit != "" {
			found = append(found, finding{line, fmt.Sprintf("%q: %s", hit, r.advice)})
		}
	}
	return found
}

// plain checks every line of a text.
func plain(text []byte) (found []finding, _ error) {
	line := 0
	for l := range strings.Lines(string(text)) {
		line++
		found = append(found, match(l, line, everywhere...)...)
	}
	return found, nil
}

// goComments checks the comments of a Go file.
func goComments(text []byte) (found []finding, _ error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	for _, group := range file.Comments {
		for _, comment := range group.List {
			first := files.Position(comment.Pos()).Line
			for i, l := range strings.Split(comment.Text, "\n") {
				found = append(found, match(l, first+i, everywhere...)...)
				found = append(found, tooWide(lines[first+i-1], first+i)...)
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if doc := docOf(n); doc != nil {
			found = append(found, match(doc.Text(), files.Position(doc.Pos()).Line, openers)...)
		}
		return true
	})
	return found, nil
}

// tooWide reports a line that holds nothing but a comment and is too long. A directive or an
// address cannot be wrapped.
func tooWide(line string, number int) []finding {
	comment, ok := strings.CutPrefix(strings.TrimSpace(line), "//")
	columns := utf8.RuneCountInString(line)
	if !ok || columns <= commentColumns || !strings.HasPrefix(comment, " ") || strings.HasPrefix(comment, " +") || strings.Contains(line, "://") {
		return nil
	}
	return []finding{{number, fmt.Sprintf("%d columns: wrap comments at %d", columns, commentColumns)}}
}

func docOf(n ast.Node) *ast.CommentGroup {
	switch n := n.(type) {
	case *ast.FuncDecl:
		return n.Doc
	case *ast.GenDecl:
		return n.Doc
	case *ast.TypeSpec:
		return n.Doc
	case *ast.ValueSpec:
		return n.Doc
	case *ast.Field:
		return n.Doc
	}
	return nil
}

var (
	inlineCode = regexp.MustCompile("`[^`]*`")
	linkTarget = regexp.MustCompile(`\]\([^)]*\)`)
	listItem   = regexp.MustCompile(`^\s*([-*]|\d+\.) `)
	sentences  = regexp.MustCompile(`[.!?:]\s+`)
)

// page checks a Markdown page: words, and the length of sentences and paragraphs. Code is left out.
func page(text []byte) (found []finding, _ error) {
	paragraph, start := "", 0
	end := func() {
		found = append(found, prose(paragraph, start)...)
		paragraph = ""
	}
	line, code := 0, false
	for l := range strings.Lines(string(text)) {
		line++
		l = strings.TrimRight(l, "\n")
		switch trimmed := strings.TrimSpace(l); {
		case strings.HasPrefix(trimmed, "```"):
			end()
			code = !code
			continue
		case code:
			continue
		}
		l = linkTarget.ReplaceAllString(inlineCode.ReplaceAllString(l, "`code`"), "]")
		found = append(found, match(l, line, everywhere...)...)
		switch {
		case strings.HasPrefix(l, "|"):
			end()
			for cell := range strings.SplitSeq(l, "|") {
				found = append(found, lengths(cell, line)...)
			}
		case strings.TrimSpace(l) == "", strings.HasPrefix(l, "#"):
			end()
		case paragraph == "", listItem.MatchString(l):
			end()
			paragraph, start = l, line
		default:
			paragraph += " " + l
		}
	}
	end()
	return found, nil
}

// prose checks a paragraph or an item of a list.
func prose(paragraph string, line int) []finding {
	found := lengths(paragraph, line)
	for _, sentence := range sentences.Split(paragraph, -1) {
		if strings.Count(sentence, ";") > 1 {
			message := fmt.Sprintf("a chain of semicolons: %.40s…: make it a list or sentences", strings.TrimSpace(sentence))
			found = append(found, finding{line, message})
		}
	}
	return found
}

// lengths checks how long a text and its sentences are.
func lengths(text string, line int) (found []finding) {
	if n := len(strings.Fields(text)); n > paragraphWords {
		message := fmt.Sprintf("a paragraph of %d words: make it a list, a table or paragraphs of at most %d", n, paragraphWords)
		found = append(found, finding{line, message})
	}
	for _, sentence := range sentences.Split(text, -1) {
		if n := len(strings.Fields(sentence)); n > sentenceWords {
			message := fmt.Sprintf("a sentence of %d words: %.40s…: at most %d", n, strings.TrimSpace(sentence), sentenceWords)
			found = append(found, finding{line, message})
		}
	}
	return found
}
