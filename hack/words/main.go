// Command words checks the language of comments, pages and chart texts against a short list: see
// words.go.
//
//	go run ./hack/words [FOLDER TO SKIP]...
//
// It reads the Go comments, Markdown pages, charts, scripts and the Makefile below the current
// folder. Generated files and testdata are left out. It prints one line for each finding and exits
// with 1 when there is any.
package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	count, err := check(".", os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if count > 0 {
		fmt.Fprintf(os.Stderr, "%d findings: hack/words/words.go has the list\n", count)
		os.Exit(1)
	}
}

// check writes the findings below root to w and returns how many there are.
func check(root string, skip []string, w io.Writer) (count int, err error) {
	for i := range skip {
		skip[i] = filepath.Clean(skip[i])
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains(skip, name) || ignored(entry.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if slices.Contains(skip, name) {
			return nil
		}
		findings, err := checkFile(path, name)
		for _, f := range findings {
			_, _ = fmt.Fprintf(w, "%s:%d: %s\n", name, f.line, f.message)
		}
		count += len(findings)
		return err
	})
	return count, err
}

// checkFile returns the findings in one file. name is its path below the root.
func checkFile(path, name string) ([]finding, error) {
	read := reader(name)
	if read == nil {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil || bytes.Contains(text, []byte("DO NOT EDIT")) {
		return nil, err
	}
	return read(text)
}

// ignored reports whether a folder holds build results, generated files or inputs of tests.
func ignored(folder string) bool {
	return slices.Contains([]string{".git", "bin", "crds", "crd", "node_modules", "testdata"}, folder)
}

// reader returns the check for a file of that name, nil for files that are not checked.
func reader(name string) func([]byte) ([]finding, error) {
	switch filepath.Ext(name) {
	case ".go":
		if !strings.HasPrefix(name, filepath.Join("hack", "words")) { // it quotes what it forbids
			return goComments
		}
	case ".md":
		return page
	case ".sh", ".tpl", ".txt", ".yaml", ".yml":
		return plain
	case "":
		if base := filepath.Base(name); base == "Makefile" || base == "run" {
			return plain
		}
	}
	return nil
}
