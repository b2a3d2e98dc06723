// How a replaced file is recognized.

package azure

import (
	"io/fs"
	"syscall"
)

// inode returns the file's inode number.
func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}
