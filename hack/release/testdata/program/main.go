// Command program stands for every program of a release: a small one with one module.
package main

import (
	"os"

	"golang.org/x/sync/errgroup"
)

func main() {
	var group errgroup.Group
	group.Go(func() error { _, err := os.Stdout.WriteString("hello\n"); return err })
	if group.Wait() != nil {
		os.Exit(1)
	}
}
