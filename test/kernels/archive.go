// The file system that the kernel starts with: a cpio archive.

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// cpio writes an archive in the format that kernels read (newc).
type cpio struct {
	out   io.Writer
	made  map[string]bool
	inode int
}

func newCPIO(out io.Writer) *cpio { return &cpio{out: out, made: map[string]bool{".": true}} }

// Modes of entries.
const (
	folderMode  = 0o040755
	programMode = 0o100755
)

// folder adds a folder and those above it, once.
func (c *cpio) folder(path string) error {
	if c.made[path] {
		return nil
	}
	c.made[path] = true
	if err := c.folder(filepath.Dir(path)); err != nil {
		return err
	}
	return c.entry(path, folderMode, 0, strings.NewReader(""))
}

// text adds a file with a content.
func (c *cpio) text(path, content string) error {
	return c.entry(path, programMode, int64(len(content)), strings.NewReader(content))
}

// file adds a copy of a file.
func (c *cpio) file(path, original string) error {
	if err := c.folder(filepath.Dir(path)); err != nil {
		return err
	}
	file, err := os.Open(original)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return c.entry(path, programMode, info.Size(), file)
}

// close ends the archive.
func (c *cpio) close() error { return c.entry("TRAILER!!!", 0, 0, strings.NewReader("")) }

// entry writes a header, a name and a content, the last two filled up to multiples of four bytes.
func (c *cpio) entry(path string, mode int, size int64, content io.Reader) error {
	const headerSize, links = 110, 1
	c.inode++
	var head bytes.Buffer
	head.WriteString("070701")
	for _, field := range []int64{int64(c.inode), int64(mode), 0, 0, links, 0, size, 0, 0, 0, 0, int64(len(path) + 1), 0} {
		fmt.Fprintf(&head, "%08X", field)
	}
	head.WriteString(path)
	head.WriteByte(0)
	head.Write(fill(int64(headerSize + len(path) + 1)))
	if _, err := c.out.Write(head.Bytes()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	n, err := io.Copy(c.out, content)
	if err == nil && n != size {
		err = fmt.Errorf("%d of %d bytes", n, size)
	}
	if err == nil {
		_, err = c.out.Write(fill(size))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// fill returns what follows so many bytes.
func fill(size int64) []byte { return make([]byte, (4-size%4)%4) }
