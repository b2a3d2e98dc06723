// Connecting by io_uring: one entry, submitted and waited for.

package hooktest

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in the kernel's structures (linux/io_uring.h).
const (
	paramsSize    = 120
	sqTailField   = 40 + 4
	sqMaskField   = 40 + 8
	sqArrayField  = 40 + 24
	cqesField     = 80 + 20
	opConnect     = 16
	mapCompletion = 0x8000000
	mapEntries    = 0x10000000
	getEvents     = 1
)

func uring() (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, false, err
	}
	return fd, false, uringConnect(fd)
}

func uringConnect(fd int) error {
	var params [paramsSize]byte
	ring, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 2, uintptr(unsafe.Pointer(&params[0])), 0)
	if e != 0 {
		return fmt.Errorf("set up io_uring: %w", e)
	}
	var areas [3][]byte
	for i, at := range []int64{0, mapCompletion, mapEntries} {
		var err error
		if areas[i], err = unix.Mmap(int(ring), at, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
			return fmt.Errorf("map io_uring: %w", err)
		}
	}
	submission, completion, entry := areas[0], areas[1], areas[2]

	native := binary.NativeEndian
	param := func(at int) uint32 { return native.Uint32(params[at:]) }
	// The address lies in the page of the entries, behind the entry, so that it does not move.
	const addressAt = 1024
	to := metadata()
	native.PutUint16(entry[addressAt:], unix.AF_INET)
	binary.BigEndian.PutUint16(entry[addressAt+2:], uint16(to.Port))
	copy(entry[addressAt+4:], to.Addr[:])
	entry[0] = opConnect
	native.PutUint32(entry[4:], uint32(fd))
	native.PutUint64(entry[8:], unix.SizeofSockaddrInet4)
	native.PutUint64(entry[16:], uint64(uintptr(unsafe.Pointer(&entry[addressAt]))))
	tail := (*uint32)(unsafe.Pointer(&submission[param(sqTailField)]))
	mask := native.Uint32(submission[param(sqMaskField):])
	native.PutUint32(submission[param(sqArrayField)+4*(*tail&mask):], 0)
	atomic.AddUint32(tail, 1)
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, getEvents, 0, 0); e != 0 {
		return fmt.Errorf("enter io_uring: %w", e)
	}
	if result := int32(native.Uint32(completion[param(cqesField)+8:])); result < 0 {
		return unix.Errno(-result)
	}
	return nil
}
