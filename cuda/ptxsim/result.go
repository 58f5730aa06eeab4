package ptxsim

import (
	"errors"
	"fmt"
)

// Result is a driver status with the numbers of cuda.h. It is an error unless Success.
type Result int32

// The driver's results that the simulator can give.
const (
	Success                     Result = 0
	ErrInvalidValue             Result = 1
	ErrOutOfMemory              Result = 2
	ErrNotInitialized           Result = 3
	ErrDeinitialized            Result = 4
	ErrNoDevice                 Result = 100
	ErrInvalidDevice            Result = 101
	ErrInvalidImage             Result = 200
	ErrInvalidContext           Result = 201
	ErrNoBinaryForGPU           Result = 209
	ErrECCUncorrectable         Result = 214
	ErrInvalidPTX               Result = 218
	ErrUnsupportedPTXVersion    Result = 222
	ErrInvalidSource            Result = 300
	ErrFileNotFound             Result = 301
	ErrOperatingSystem          Result = 304
	ErrInvalidHandle            Result = 400
	ErrIllegalState             Result = 401
	ErrNotFound                 Result = 500
	ErrNotReady                 Result = 600
	ErrIllegalAddress           Result = 700
	ErrLaunchOutOfResources     Result = 701
	ErrLaunchTimeout            Result = 702
	ErrAssert                   Result = 710
	ErrHardwareStack            Result = 714
	ErrIllegalInstruction       Result = 715
	ErrMisalignedAddress        Result = 716
	ErrInvalidPC                Result = 718
	ErrLaunchFailed             Result = 719
	ErrNotPermitted             Result = 800
	ErrNotSupported             Result = 801
	ErrSystemNotReady           Result = 802
	ErrStreamCaptureUnsupported Result = 900
	ErrStreamCaptureInvalidated Result = 901
	ErrStreamCaptureUnmatched   Result = 903
	ErrCapturedEvent            Result = 907
	ErrUnknown                  Result = 999
)

var resultNames = map[Result][2]string{
	Success:                     {"CUDA_SUCCESS", "no error"},
	ErrInvalidValue:             {"CUDA_ERROR_INVALID_VALUE", "invalid argument"},
	ErrOutOfMemory:              {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
	ErrNotInitialized:           {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
	ErrDeinitialized:            {"CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
	ErrNoDevice:                 {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
	ErrInvalidDevice:            {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
	ErrInvalidImage:             {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
	ErrInvalidContext:           {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
	ErrNoBinaryForGPU:           {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
	ErrECCUncorrectable:         {"CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
	ErrInvalidPTX:               {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
	ErrUnsupportedPTXVersion:    {"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
	ErrInvalidSource:            {"CUDA_ERROR_INVALID_SOURCE", "device kernel image is invalid"},
	ErrFileNotFound:             {"CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
	ErrOperatingSystem:          {"CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
	ErrInvalidHandle:            {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
	ErrIllegalState:             {"CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
	ErrNotFound:                 {"CUDA_ERROR_NOT_FOUND", "named symbol not found"},
	ErrNotReady:                 {"CUDA_ERROR_NOT_READY", "device not ready"},
	ErrIllegalAddress:           {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
	ErrLaunchOutOfResources:     {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
	ErrLaunchTimeout:            {"CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
	ErrAssert:                   {"CUDA_ERROR_ASSERT", "device-side assert triggered"},
	ErrHardwareStack:            {"CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error"},
	ErrIllegalInstruction:       {"CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
	ErrMisalignedAddress:        {"CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
	ErrInvalidPC:                {"CUDA_ERROR_INVALID_PC", "invalid program counter"},
	ErrLaunchFailed:             {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
	ErrNotPermitted:             {"CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
	ErrNotSupported:             {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
	ErrSystemNotReady:           {"CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
	ErrStreamCaptureUnsupported: {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
	ErrStreamCaptureInvalidated: {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
	ErrStreamCaptureUnmatched:   {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture was not initiated in this stream"},
	ErrCapturedEvent:            {"CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
	ErrUnknown:                  {"CUDA_ERROR_UNKNOWN", "unknown error"},
}

// Name is the driver's name, as cuGetErrorName gives it; "" for a number not in the table.
func (r Result) Name() string { return resultNames[r][0] }

// Text is the driver's description, as cuGetErrorString gives it.
func (r Result) Text() string { return resultNames[r][1] }

func (r Result) Error() string {
	if n, ok := resultNames[r]; ok {
		return n[0] + ": " + n[1]
	}
	return fmt.Sprintf("CUresult %d", int32(r))
}

// Sticky says whether the error leaves the context unusable, as errors of a
// running kernel do.
func (r Result) Sticky() bool {
	return r >= ErrIllegalAddress && r <= ErrLaunchFailed && r != ErrLaunchOutOfResources || r == ErrECCUncorrectable
}

// Sentinels of parsing and loading.
var (
	ErrSyntax      = errors.New("not valid PTX")
	ErrUnsupported = errors.New("PTX that the simulator does not know")
)

// resultOf maps any error of the package to the driver's number.
func resultOf(err error) Result {
	var r Result
	var f *Fault
	switch {
	case err == nil:
		return Success
	case errors.As(err, &f):
		return f.Result
	case errors.As(err, &r):
		return r
	case errors.Is(err, ErrSyntax), errors.Is(err, ErrUnsupported):
		return ErrInvalidPTX
	}
	return ErrUnknown
}

// ResultOf is the driver's number for an error of this package: Success for nil,
// the fault's own number for a Fault, ErrInvalidPTX for a text that does not load.
func ResultOf(err error) Result { return resultOf(err) }
