// The programs that run in the machine.

package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// program is a test program, and its tests that need a kernel.
type program struct {
	name, file string
	tests      []string
}

// folders returns where the tests are.
func folders() []string {
	return []string{"internal/hook", "internal/agent", "internal/privileged", "internal/testnet", "cmd/nmi"}
}

// elsewhere reports whether a test is for the machine that builds it only.
func elsewhere(test string) bool {
	return test == "TestFlood" // builds nmi, and measures it
}

// build builds init and the programs of all packages with kernel tests whose name matches. They are
// static, as the machine has no libraries.
func build(ctx context.Context, work, only string) ([]program, error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	var programs []program
	found, err := kernelTests()
	if err != nil {
		return nil, err
	}
	for _, dir := range slices.Sorted(maps.Keys(found)) {
		tests := slices.DeleteFunc(found[dir], func(name string) bool { return elsewhere(name) || !match.MatchString(name) })
		if len(tests) == 0 {
			continue
		}
		p := program{name: strings.ReplaceAll(dir, "/", "."), tests: tests}
		p.file = filepath.Join(work, p.name)
		if err := goBuild(ctx, "test", "-c", "-o", p.file, "./"+dir); err != nil {
			return nil, err
		}
		programs = append(programs, p)
	}
	return programs, goBuild(ctx, "build", "-o", filepath.Join(work, "init"), "./test/kernels/init")
}

func goBuild(ctx context.Context, verb string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{verb, "-trimpath", "-ldflags=-s -w"}, args)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", args[len(args)-1], err, out)
	}
	return nil
}

// kernelTests returns the names of the tests in files that end in _kernel_test.go, by folder.
func kernelTests() (map[string][]string, error) {
	found := map[string][]string{}
	for _, top := range folders() {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_kernel_test.go") {
				return err
			}
			names, err := testsIn(path)
			found[filepath.Dir(path)] = append(found[filepath.Dir(path)], names...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for tests: %w", err)
		}
	}
	return found, nil
}

func testsIn(path string) (names []string, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain" {
			names = append(names, f.Name.Name)
		}
	}
	return names, nil
}
